"""What writes pages and pictures: charts, sections between markers, one command that redraws all from the records."""
