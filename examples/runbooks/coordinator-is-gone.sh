#!/bin/sh
# Every coordinator is gone and a release must go back: lead one region's hosts to what
# ran before. Run it once for each region, with the same folder.
#
#   coordinator-is-gone.sh APP ENV REGION_URL REGION_TOKEN_FILE GOAL_KEY FOLDER
#
# REGION_TOKEN_FILE is the file that deployctl-region was started with, GOAL_KEY is
# keys/goal.ed25519 of the coordinator's data folder or of its backup.
set -eu
app=${1:?which app} env=${2:?which env} url=${3:?the URL of the region}
token=${4:?the token file of the region} key=${5:?the goal key} folder=${6:?a folder}

back=$folder/$app-$env-back.json
if [ ! -s "$back" ]; then
  deployctl plumbing goal show -a "$app" -e "$env" --server "$url" --token-file "$token" \
    >"$folder/$app-$env-was.json"
  deployctl plumbing goal sign "$folder/$app-$env-was.json" --key "$key" >"$back.new"
  mv "$back.new" "$back"
fi
deployctl plumbing goal put "$back" --server "$url" --token-file "$token" --yes >/dev/null
echo "when the coordinator is back, say once where $app belongs: deployctl rollback -a $app -e $env"
