"""What a study has shown: judged, drawn and written down. Reports read stored measurements; reporting never trains."""
