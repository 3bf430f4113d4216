"""What the Open Inference Protocol's requests and answers hold; requests are checked against it, answers described.

The protocol is KServe's V2, over REST, with the binary tensor data extension. A member that is not listed here is
refused, as a misspelt one must not pass for absent.
"""

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

OutputName = Literal["label", "probabilities", "prediction_set", "coverage", "status", "reasons"]
OUTPUT_NAMES: tuple[OutputName, ...] = get_args(OutputName)


class _Sent(BaseModel):
    """What a client sends: nothing unknown, and nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class InputParameters(_Sent):
    """How an input comes."""

    binary_data_size: int | None = Field(None, ge=0, description="Its bytes behind the JSON, instead of `data`.")
    content_type: Literal["base64"] | None = Field(None, description="What strings of `data` are anyhow.")


class InputTensor(_Sent):
    """One input: files in `image`, or boxes in `box`."""

    name: Literal["image", "box"]
    datatype: Literal["BYTES", "INT64"] = Field(description="BYTES of `image`, INT64 of `box`.")
    shape: list[int] = Field(min_length=1, max_length=2, description="[N] of `image`, [N, 4] of `box`.")
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = Field(None, description="Files as base64; boxes flat or nested.")


class OutputParameters(_Sent):
    """How an output goes out."""

    binary_data: bool | None = Field(None, description="Behind the JSON; not given: as the whole request says.")


class RequestedOutput(_Sent):
    """One output that is asked for."""

    name: OutputName
    parameters: OutputParameters = OutputParameters()


class RequestParameters(_Sent):
    """How outputs go out where they do not say it themselves."""

    binary_data_output: bool = Field(False, description="Behind the JSON.")


class InferRequest(_Sent):
    """Slices to classify."""

    id: str = Field("", max_length=256, description="Repeated in the answer.")
    parameters: RequestParameters = RequestParameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=2)
    outputs: list[RequestedOutput] = Field([], description="None given: all.")


class OutputTensor(BaseModel):
    """One output: its values in `data`, or their count of bytes in `parameters`."""

    name: OutputName
    datatype: str
    shape: list[int]
    parameters: dict[str, int] = Field({}, description="`binary_data_size`, where its bytes are behind the JSON.")
    data: list[str | float | bool] = Field([], description="Row by row. Absent where its bytes are behind the JSON.")


class InferAnswer(BaseModel):
    """What the model says of each slice of a request, in its order."""

    model_name: str
    model_version: str = Field(description="The first 12 digits of the model's hash.")
    id: str = Field("", description="The request's; absent where it had none.")
    parameters: dict[str, str | int] = Field(
        description="The classes of `probabilities` and `prediction_set`, with commas between; the model's own name "
        "and hash, the version of the preprocessing, and the notice."
    )
    outputs: list[OutputTensor]


class ModelTensor(BaseModel):
    """A tensor that a model takes or gives."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1 is as many as there are slices.")
    parameters: dict[str, str] = Field({}, description="What strings in JSON are; the classes, with commas between.")


class ModelMetadata(BaseModel):
    """What the served model takes and gives."""

    name: str
    versions: list[str] = Field(description="One: the first 12 digits of the hash of what is served.")
    platform: str
    inputs: list[ModelTensor]
    outputs: list[ModelTensor]


class ServerMetadata(BaseModel):
    """What this server is."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """It answers."""

    live: Literal[True]


class Ready(BaseModel):
    """It can classify."""

    ready: Literal[True]


class ModelReady(Ready):
    """The model can classify."""

    name: str
