"""Finished steps on disk or in a bucket, leases on those that are being worked on, and upkeep."""
