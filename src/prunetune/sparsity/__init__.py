"""Masks, what is prunable, how the kept weights are chosen and held, and R_p: usable on any nn.Module by itself."""
