"""The steps of the database, as Django makes them. Start reading at `0001_initial`."""
