"""The steps of the database, as Django makes them.

`manage.py migrate` runs them. They know the tables, and nothing else of the site. Start reading at `0001_initial`.
"""
