"""The report: what runs recorded and what the doctor says of it, as one HTML file."""
