"""Images in: the DICOM node, the drop folder, and the assembler that decides when a series is complete."""
