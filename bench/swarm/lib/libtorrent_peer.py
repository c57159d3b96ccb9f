"""A libtorrent peer, `seed` or `leech`. The settings are the best found in about 30 runs at 8 hosts:
few outstanding requests and no whole-piece preference took the last host from 1.9-2.4 to 1.3-1.45 of the bound."""
import os
import sys

import libtorrent

env = os.environ
session = libtorrent.session({
    "listen_interfaces": f"{env['SW_IP']}:6881",
    "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "enable_outgoing_utp": False, "enable_incoming_utp": False, "mixed_mode_algorithm": 0,
    "out_enc_policy": 2, "in_enc_policy": 2,
    "connections_limit": 1000, "connection_speed": 500, "torrent_connect_boost": 200, "smooth_connects": False,
    "unchoke_slots_limit": 8, "choking_algorithm": 0, "seed_choking_algorithm": 0, "unchoke_interval": 5,
    "optimistic_unchoke_interval": 10, "num_optimistic_unchoke_slots": 2,
    "max_out_request_queue": 32, "request_queue_time": 1, "whole_pieces_threshold": 0,
    "send_buffer_watermark": 2 << 20, "send_buffer_low_watermark": 64 << 10, "send_buffer_watermark_factor": 150,
    "aio_threads": 2, "hashing_threads": 1, "max_queued_disk_bytes": 32 << 20,
    "peer_turnover_interval": 3600, "min_announce_interval": 2, "min_reconnect_time": 2,
    "announce_to_all_trackers": True, "tracker_backoff": 10, "strict_end_game_mode": True,
    "active_limit": -1, "active_seeds": -1, "active_downloads": -1,
    "alert_mask": libtorrent.alert.category_t.status_notification,
})


def touch(name):
    open(f"{env['SW_WORK']}/{name}", "w").close()


def add(folder, flags=0):
    params = libtorrent.add_torrent_params()
    params.ti = libtorrent.torrent_info(f"{env['SW_META']}/payload.torrent")
    params.save_path = folder
    params.flags &= ~(libtorrent.torrent_flags.paused | libtorrent.torrent_flags.auto_managed)
    params.flags |= flags
    return session.add_torrent(params)


if sys.argv[1] == "seed":
    add(os.path.dirname(env["SW_FILE"]), libtorrent.torrent_flags.seed_mode)
else:
    touch("ready")
    sys.stdin.readline()
    add(env["SW_OUT"])
while True:
    session.wait_for_alert(2000)
    for alert in session.pop_alerts():
        if isinstance(alert, libtorrent.torrent_finished_alert) and sys.argv[1] == "leech":
            touch("done")
