"""Convert one conversation record to one tokenized sample, without HDF5, torch or multiprocessing."""
