"""Stages: their data, their training, and the report of what was forgotten."""

# Where a session lies, below the output; in it what it was begun with, and of each stage its rows and their origin.
MULTI_RUN, SETTINGS_FILE, DATA_FOLDER, STAGE_FILE = "multi-run", "settings.json", "data", "stage.json"
