-- Searches with the texts of a BEIR folder's queries.jsonl ($QUERIES), from line $START on.
local bodies = {}
for line in io.lines(os.getenv("QUERIES")) do
    local text = line:match('"text": ("[^"\\]*")') -- those without escapes
    if text then bodies[#bodies + 1] = '{"query": ' .. text .. "}" end
end
local place = tonumber(os.getenv("START"))
request = function()
    place = place + 1
    return wrk.format("POST", "/v1/search", { ["Content-Type"] = "application/json" }, bodies[place % #bodies + 1])
end
