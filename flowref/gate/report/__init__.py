"""Reports: one file a format, each made from evidence alone. The gate knows none of them.

message   one record in words                     table   counts by target and precision
json      report.json, after report.schema.json    junit   junit.xml
"""
