package main

import (
	"errors"

	"sluice/jobs"
	"sluice/jobs/outbound"
	"sluice/proof"
)

// mailerOf is the way of alerts into mail; nil where no server is configured.
func mailerOf(c Config, door *outbound.Door) (*jobs.Mailer, error) {
	if !c.SMTPURL.Empty() && c.SMTPFrom == "" {
		return nil, errors.New("--smtp-from (SLUICE_SMTP_FROM): is missing; it is needed with SLUICE_SMTP_URL")
	}
	return jobs.NewMailer(jobs.MailConfig{URL: c.SMTPURL, From: c.SMTPFrom, Door: door, Now: proof.Now})
}
