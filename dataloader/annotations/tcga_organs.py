"""Organs of the 44 TCGA images of Kumar and MoNuSeg, which their file names do not tell.

Kumar et al. 2017 (A Dataset and a Technique for Generalized Nuclear Segmentation), table of the 30 training images;
Kumar et al. 2020 (A Multi-Organ Nucleus Segmentation Challenge), the 14 test images. The images that the authors
call liver are listed so here, though their TCGA codes are of lung.
"""

from __future__ import annotations

_PATIENTS = {
    "bladder": "DK-A2I6 G2-A2EK CU-A0YN ZF-A9R5",
    "brain": "FG-A4MU HT-8564",
    "breast": "A7-A13E A7-A13F AR-A1AK AR-A1AS E2-A1B5 E2-A14V AC-A2FO AO-A0J2",
    "colon": "AY-A8YK NH-A8F7 A6-6782",
    "kidney": "B0-5711 HE-7128 HE-7129 HE-7130 B0-5710 B0-5698 2Z-A9J9 GL-6846 IZ-8196",
    "liver": "18-5592 38-6178 49-4488 50-5931 21-5784 21-5786",
    "lung": "44-2665 69-7764",
    "prostate": "G9-6336 G9-6348 G9-6356 G9-6363 CH-5767 G9-6362 EJ-A46H HC-7209",
    "stomach": "KB-A93J RD-A8N9",
}
ORGAN_OF_PATIENT = {f"TCGA-{code}": organ for organ, codes in _PATIENTS.items() for code in codes.split()}

NUM_CODES = 3  # parts of a TCGA name that tell the patient: TCGA, site, participant


def find_organ(name: str) -> str:
    """Return the organ of an image such as ``TCGA-A7-A13E-01Z-00-DX1``; empty where it is of no listed patient."""
    return ORGAN_OF_PATIENT.get("-".join(name.split("-")[:NUM_CODES]), "")
