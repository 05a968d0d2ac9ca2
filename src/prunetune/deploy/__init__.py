"""How a masked model ships: measured, exported, shrunk."""
