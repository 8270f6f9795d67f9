"""When a series is complete: the earliest honest sign. Nobody says so outright in DICOM, so there are several.

=========================  ===========================================================  ============================
sign                       what has happened                                            complete
=========================  ===========================================================  ============================
``mpps completed``         the modality's procedure step has ended (N-SET), and all     at once
``mpps discontinued``      images that it lists of the series are here
``committed``              the sender asks for storage commitment; all that it names    at once
                           is here, and that is all of the series, two or more images
``images in acquisition``  all images announce the same number (0020,1002), and as      ``settle_s`` after the last
                           many are here                                                image; at once with a mark
``pacs count``             the PACS said twice, ``assembly.pacs.ask_after_s`` apart     at once
                           and as long after the last image, that it has as many
                           instances as are here
``association released``   the association that brought at least two of its images      ``settle_s`` later
                           ended in good order, and no open one has brought any
``folder complete``        the same of a sub-folder of the drop folder, or of an        at once
``archive complete``       archive
``stable age``             nothing of the above                                         ``stable_age_s`` after the
                                                                                        last image
=========================  ===========================================================  ============================

* An *expectation* (a list or a number of images that should be there) is stronger than an *end mark* (commitment,
  release, folder, archive). While images are missing, an end mark does not count: the sender was cut off, or sends in
  several associations. The stable age ends the wait, as the expectation may be wrong, and ``missing`` tells of it.
* The list of a procedure step knows best: while one of its images is missing, no number counts either, and once all
  are here, none holds the series up. It holds for revisions to come, for 30 days. What it names that is no image
  (dose reports, presentation states) is not waited for.
* A number that is exceeded was wrong: images that announce fewer than are here, and a PACS that has fewer, say nothing.
* An image of the series, whoever sends it, begins everything anew: end marks before it are void.
* An association that is broken off gives no mark, nor one that brought a single image of the series, as there are
  senders that open one for each image. Nor does one while another that brought images of the series is open.
* Too early is mended: a late image opens revision n+1, all models are asked again about all images, jobs of
  revision n that have not begun, or that come back unfinished, are superseded, and new results name those that they
  replace. While a worker is still at revision n, none begins n+1.
* Resent images that are here already change nothing; other content under a known UID is kept apart.
"""

from __future__ import annotations

from appliance.intake.part10 import ScannedInstance


def announced_images(scanned: ScannedInstance) -> int:
    """How many images the series has as this one says by Images in Acquisition (0020,1002); 0: it does not say.

    The number is that of images made by one acquisition (PS3.3 section C.7.3.1), which is that of the series only for
    its original images: reconstructions and projections keep the number of the images that they were made from
    (Image Type (0008,0008), PS3.3 section C.7.6.1.1.2). Of one image the series is never taken to consist: where each
    slice is an acquisition, each of them says 1. Frames are counted by no one number.
    """
    image_type = scanned.attributes.get("ImageType")
    is_original = (image_type[0] if isinstance(image_type, list) else image_type) == "ORIGINAL"
    number = scanned.images_in_acquisition
    return number if number > 1 and is_original and scanned.frames == 1 else 0
