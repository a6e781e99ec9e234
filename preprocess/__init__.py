"""One conversation record in, one token row out: pure stages that know nothing of HDF5, torch or processes."""
