"""What several tests need: small networks and studies, planted results, how the command line is called."""
