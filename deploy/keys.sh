#!/bin/sh
# Makes the API keys of compose.yaml in deploy/secrets, which git ignores; keys that exist stay.
set -eu
umask 022
folder=$(dirname "$0")/secrets
[ -e "$folder/keys.txt" ] && exit
# Only the owner enters the folder. The files are mounted one by one into containers, whose users must read them.
mkdir -p "$folder" && chmod 700 "$folder"
for role in read write metrics; do
    openssl rand -hex 16 > "$folder/$role.txt"
done
for role in read write; do
    echo "$role $(cat "$folder/$role.txt")"
done > "$folder/keys.txt"
echo "read $(cat "$folder/metrics.txt")" >> "$folder/keys.txt"
