"""What several analyses share; no analysis in here."""
