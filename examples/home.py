"""What the examples' agents can do: functions with a docstring, as all frameworks take them."""


def fetch_sponge(room: str) -> str:
    """Brings the kitchen sponge to a room to wipe up a spill."""
    return f"The sponge is in the {room}."


def switch_lamp(room: str) -> str:
    """Switches the lamp of a room on or off."""
    return f"The lamp in the {room} is switched."


def play_song(title: str) -> str:
    """Plays a song on the speakers."""
    return f"Playing {title}."


def order_groceries(item: str) -> str:
    """Orders food from the supermarket."""
    return f"{item} will come tomorrow."


def call_doctor(reason: str) -> str:
    """Calls the family's doctor for someone who is ill."""
    return f"The doctor is told: {reason}."


def water_plants(room: str) -> str:
    """Waters the plants of a room."""
    return f"The plants in the {room} are watered."


def set_alarm(time: str) -> str:
    """Sets the alarm clock."""
    return f"The alarm rings at {time}."


def read_calendar(day: str) -> str:
    """Reads the appointments of a day."""
    return f"Nothing on {day}."


FUNCTIONS = [fetch_sponge, switch_lamp, play_song, order_groceries, call_doctor, water_plants, set_alarm, read_calendar]


def schema(function) -> dict:
    """Returns the JSON schema of a function's arguments, which are all texts."""
    names = [name for name in function.__annotations__ if name != "return"]
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
