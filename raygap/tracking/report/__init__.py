"""The page that a sweep leaves: run.py reads the folder, sections.py says what is shown, page.py writes it."""
