-- Searches with the texts of a BEIR folder's queries.jsonl ($QUERIES), from line $START on.
local bodies = {}
for line in io.lines(os.getenv("QUERIES")) do
    local text = line:match('"text": ("[^"\\]*")') -- those without escapes
    if text then bodies[#bodies + 1] = '{"query": ' .. text .. "}" end
end
local line_number = tonumber(os.getenv("START"))
request = function()
    line_number = line_number + 1
    return wrk.format("POST", "/v1/search", { ["Content-Type"] = "application/json" }, bodies[line_number % #bodies + 1])
end
