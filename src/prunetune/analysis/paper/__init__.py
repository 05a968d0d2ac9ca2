"""The paper beside a study: what it publishes, and the rules by which a study agrees with it."""
