"""What a study has shown, as numbers: paired statistics, verdicts and advice. Reads stored rows; no torch, no page."""
