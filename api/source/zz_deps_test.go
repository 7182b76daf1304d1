package source_test

import (
	_ "github.com/PaddleHQ/paddle-go-sdk/v4"
	_ "github.com/PagerDuty/go-pagerduty/webhookv3"
	_ "github.com/bwmarrin/discordgo"
	_ "github.com/mailgun/mailgun-go/v4"
	_ "github.com/sendgrid/sendgrid-go/helpers/eventwebhook"
	_ "github.com/slack-go/slack"
	_ "github.com/twilio/twilio-go/client"
)
