"""What a picture says: the texts of an SVG, whatever version drew it."""

import xml.etree.ElementTree as ElementTree


def texts(svg: str) -> list[str]:
    """In the order of the file: titles, labels, numbers."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
