from rabtriever.evaluation.telling_words import TellingWords, different_words


def test_names_are_split_and_plurals_are_one_word():
    assert different_words("listAllPods of_the PODs ID2 caf\u00e9 a") == {
        "list": "list",
        "all": "all",
        "pod": "pods",
        "of": "of",
        "the": "the",
        "id2": "id2",
        "caf\u00e9": "caf\u00e9",
    }


def test_words_that_the_texts_lack_the_rare_ones_first():
    requests = [f"please show the {word}" for word in ("rain", "snow", "weather today", "weather now", "hail")]
    words = TellingWords(["shows rain", "shows snow"], requests)
    # "please", "show" and "the" are in every request; "weather" is asked for twice.
    assert words.missing(requests[2:4], ["shows rain", "shows snow"]) == ["weather", "now", "today"]
    assert words.only_in("shows rain and snow", "shows rains") == ["and", "snow"]
    assert words.only_in("shows rain", "rain shows") == []


def test_names_of_one_word_each_way():
    words = TellingWords(["process"], ["start HTTPServer"])
    assert words.only_in("process HTTPServer", "http_server") == ["process"]
