# shellcheck shell=bash
# Sourced by the BitTorrent adapters.
lib=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
torrent=${SW_META:-}/payload.torrent

torrent_prepare() { "$lib/torrent.py" make "$SW_FILE" "$torrent" "http://$SW_IP:6969/announce" "${PIECE_KIB:-256}"; }
# Some clients lose 10 s and more when their first announce is refused: it is up before they are.
torrent_tracker() {
  "$lib/torrent.py" track "$SW_IP" 6969 "$SW_WORK/seeded" &
  until (exec 3<>"/dev/tcp/$SW_IP/6969") 2>/dev/null; do sleep 0.02; done
}
# The origin is ready when its client has announced itself as a seeder.
torrent_ready() {
  until [ -e "$SW_WORK/seeded" ]; do sleep 0.02; done
  touch "$SW_WORK/ready"
}
