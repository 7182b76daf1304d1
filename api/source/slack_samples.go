package source

var slackSamples = []Sample{
	{Type: "app_mention", Body: sampleBody(`
{
  "token": "not-used-any-more",
  "team_id": "T0SAMPLE01",
  "api_app_id": "A0SAMPLE01",
  "type": "event_callback",
  "event_id": "$ID",
  "event_time": $UNIX,
  "event": {
    "type": "app_mention",
    "user": "U0SAMPLE02",
    "text": "<@U0SAMPLE01> is the export of invoice $NUMBER broken for anyone else?",
    "channel": "C0SAMPLE01",
    "team": "T0SAMPLE01",
    "ts": "$UNIX.000000",
    "event_ts": "$UNIX.000000"
  },
  "authorizations": [{"enterprise_id": null, "team_id": "T0SAMPLE01", "user_id": "U0SAMPLE01", "is_bot": true, "is_enterprise_install": false}],
  "is_ext_shared_channel": false,
  "event_context": "4-sample"
}`)},
	{Type: "message", Body: sampleBody(`
{
  "token": "not-used-any-more",
  "team_id": "T0SAMPLE01",
  "api_app_id": "A0SAMPLE01",
  "type": "event_callback",
  "event_id": "$ID",
  "event_time": $UNIX,
  "event": {
    "type": "message",
    "client_msg_id": "message-$NUMBER",
    "user": "U0SAMPLE02",
    "text": "The shop says 502 since a minute ago. Anyone on it?",
    "channel": "C0SAMPLE01",
    "channel_type": "channel",
    "team": "T0SAMPLE01",
    "ts": "$UNIX.000000",
    "event_ts": "$UNIX.000000",
    "blocks": [
      {"type": "rich_text", "block_id": "s4mp1", "elements": [
        {"type": "rich_text_section", "elements": [{"type": "text", "text": "The shop says 502 since a minute ago. Anyone on it?"}]}
      ]}
    ]
  },
  "authorizations": [{"enterprise_id": null, "team_id": "T0SAMPLE01", "user_id": "U0SAMPLE01", "is_bot": true, "is_enterprise_install": false}],
  "is_ext_shared_channel": false,
  "event_context": "4-sample"
}`)},
}
