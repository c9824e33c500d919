"""Bytes → rows that know where they stand: files, folders, tables, data sets of the hub."""
