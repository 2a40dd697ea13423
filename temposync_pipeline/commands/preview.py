"""`temposync preview`: what a video will be made of, before it is made."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InvalidInputError
from ..files import whole_file
from ..progress import hide_loading_bars
from ..terminal import say
from .checks import check_files, check_model, choose_device, write_json
from .options import Device, FaceIndex, JsonFile, Model


def preview(
    image: Annotated[Path, typer.Option("--image", "--source_image", help="The portrait, a picture file.")],
    output: Annotated[Path, typer.Option(help="The PNG or JPEG to write.")] = Path("preview.png"),
    face_index: FaceIndex = 0,
    model: Model = "temposync-tiny",
    device: Device = "auto",
    json_file: JsonFile = None,
) -> None:
    """Show the faces in a picture, the crop that will speak with its landmarks, and what of it will move.

    Example: temposync preview --image portrait.jpg --output preview.png

    A face that cannot be used is drawn, too, before the reason is told. The JSON has each face's box, landmarks and score, largest first.
    """
    check_files((image,), (output, json_file), (Path(model),))
    if output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise InvalidInputError(f"{output}: the preview is a picture, its name must end in .png or .jpg")
    check_model(model)
    from PIL import Image

    from ..checkpoints import checkpoint_folder
    from ..media.image import load_image
    from ..models.face_aligner import FaceAligner
    from ..pipelines.face_search import choose_face, find_faces
    from ..pipelines.preview import draw_preview

    photo = load_image(image)
    device = choose_device(device)
    hide_loading_bars()
    folder = checkpoint_folder(model, ("face_aligner",))
    aligner = FaceAligner.from_pretrained(folder, subfolder="face_aligner", use_safetensors=True).to(device)
    photo, faces = find_faces(aligner, photo, image.name)
    with whole_file(output) as temporary:
        Image.fromarray(draw_preview(photo, faces, min(face_index, len(faces) - 1))).save(temporary)
    write_json(json_file, {"faces": [
        {"box": face.box, "score": face.score, "landmarks": face.landmarks.round(2).tolist()} for face in faces]})
    choose_face(photo, faces, image.name, face_index)
    say(output)
