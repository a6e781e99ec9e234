"""Write `report.html`: statistics of the records, samples, rows and images of a dataset."""
