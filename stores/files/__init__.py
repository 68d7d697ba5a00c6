"""Files on local disks and object stores, behind one small protocol."""
