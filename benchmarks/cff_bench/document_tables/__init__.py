"""What stands in the documents, written from committed JSON: scripts/update_tables.py."""
