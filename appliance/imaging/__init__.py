"""From DICOM files to images in physical units, and from images to tensors and back."""
