"""Write COCO's two annotation files from captions and normalised boxes."""

import json

WIDTH, HEIGHT = 640, 480


def write_coco(folder, images):
    """Write captions_x.json and instances_x.json; an image is {"id", "image", "captions", "instances"}.

    Boxes are in pixels with two decimals, as COCO has them.
    """
    names = sorted({box["category"] for image in images for box in image["instances"]})
    numbers = {name: 10 * (number + 1) for number, name in enumerate(names)}
    listed = [{"id": int(i["id"]), "file_name": i["image"], "width": WIDTH, "height": HEIGHT} for i in images]
    captions = [
        {"id": number, "image_id": int(image["id"]), "caption": caption}
        for number, (image, caption) in enumerate((image, caption) for image in images for caption in image["captions"])
    ]
    boxes = [
        {
            "id": number,
            "image_id": int(image["id"]),
            "category_id": numbers[box["category"]],
            "bbox": pixels(box["bbox"]),
        }
        for number, (image, box) in enumerate((image, box) for image in images for box in image["instances"])
    ]
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return (
        _write(folder / "captions_x.json", {"images": listed, "annotations": captions}),
        _write(folder / "instances_x.json", {"images": listed, "annotations": boxes, "categories": categories}),
    )


def pixels(corners):
    left, top, right, bottom = corners
    width, height = (right - left) * WIDTH, (bottom - top) * HEIGHT
    return [round(value, 2) for value in (left * WIDTH, top * HEIGHT, width, height)]


def dog(number=7, **changes):
    """One image, with its annotations."""
    image = {
        "id": str(number),
        "image": f"{number:012d}.jpg",
        "captions": ["A dog on the grass.", "A brown dog plays with a ball."],
        "instances": [
            {"category": "dog", "bbox": [0.24, 0.1, 0.75, 1.0]},
            {"category": "sports ball", "bbox": [0.8, 0.905, 0.901, 1.0]},
        ],
    }
    return {**image, **changes}


def _write(path, value):
    text = json.dumps(value)
    # Receipts detect a changed input by its modification time.
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return path
