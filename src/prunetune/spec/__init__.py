"""What a user may ask for: the fields of a study, presets, scaling."""
