package source

import (
	"bytes"
	"cmp"
	"crypto"
	_ "crypto/sha1" // for SignatureVersion 1, where it is chosen
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	snsRaw = "X-Amz-Sns-Rawdelivery"

	snsNotification = "Notification"
	snsSubscribe    = "SubscriptionConfirmation"
	snsUnsubscribe  = "UnsubscribeConfirmation"

	// snsPast is the hour over which SNS may retry, each time with the Timestamp of the publication, and a margin.
	snsPast = 75 * time.Minute
)

// awsSNS is AWS SNS over HTTPS, in the envelope that it signs.
var awsSNS = Source{
	Name:       "aws_sns",
	Title:      "AWS SNS",
	Docs:       "https://docs.aws.amazon.com/sns/latest/dg/sns-http-https-endpoint-as-subscriber.html",
	SecretFrom: SecretNone,
	Setup: "Set the topic's attribute SignatureVersion to 2 (aws sns set-topic-attributes). Give this endpoint the topic's ARN in " +
		"topic_arns. Then subscribe it to the topic: protocol HTTPS, endpoint {url}, raw message delivery off. The subscription " +
		"confirms itself. Where Message is JSON, templates find it parsed in message_json.",
	Signs: "RSA with SHA-256 (SignatureVersion 2) over the fields Message, MessageId, Subject, Timestamp, TopicArn and Type, in the " +
		"body; the certificate at SigningCertURL must be one of SNS's own.",
	Settings: snsSettingDocs,
	Notes: []string{
		"SNS publishes the certificate it signs with without its chain: the intermediates of Amazon's public authority are built in, and under another authority " +
			"(such as in China) deliveries are refused until the operator gives its certificate as a root.",
		"SignatureVersion 1 (SHA-1), which is SNS's own default, is refused unless signature_version says 1; then 2 is refused.",
		"A retry keeps the Timestamp and may come an hour later, so it may be 75 minutes old; the MessageId, which is signed, is taken once.",
		"What is not signed (MessageAttributes, UnsubscribeURL) is left out of the payload.",
		"UnsubscribeConfirmation is kept as an event, for nothing more will come, and its SubscribeURL is not visited.",
		"Raw message delivery carries no signature and is refused.",
	},
	Window:       snsWindow,
	BodySigned:   always, // all of it that is used
	IDSigned:     always,
	AnswerWithin: 15 * time.Second,
	Retries:      "By default 3 times, 20 seconds apart, at once over an hour as the subscription says; a 4xx is not retried. The MessageId stays.",
	Order:        "Timestamp of the publication; SNS promises no order.",
	BodyMax:      2 << 20, // a message of 256 KiB, escaped as JSON

	CertificateURL: snsCertificateURL,
	Verify:         snsVerify,
	Handshake:      snsHandshake,
	Events:         snsEvents,
	Samples:        snsSamples,
	Sign:           snsSign,
	Trial:          snsTrial,
	CheckSecret:    noSecret,
	ParseSettings:  snsParseSettings,
}

// snsARN is a topic's: partition, region, account and name.
var snsARN = regexp.MustCompile(`^arn:(aws|aws-cn|aws-us-gov):sns:([a-z0-9-]{3,32}):[0-9]{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?$`)

// snsCertificatePath is where SNS keeps its certificates.
var snsCertificatePath = regexp.MustCompile(`^/SimpleNotificationService-[0-9A-Za-z]{32}\.pem$`)

// snsSigned are the fields under the signature, in their order. Subject is there only if the message has one.
var snsSigned = map[string][]string{
	snsNotification: {"Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"},
	snsSubscribe:    {"Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"},
	snsUnsubscribe:  {"Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"},
}

// snsHost is the host of SNS in the region of a topic, and "" for what is no topic.
func snsHost(topic string) string {
	parts := snsARN.FindStringSubmatch(topic)
	if parts == nil {
		return ""
	}
	if parts[1] == "aws-cn" {
		return "sns." + parts[2] + ".amazonaws.com.cn"
	}
	return "sns." + parts[2] + ".amazonaws.com"
}

// snsNames are those to which the certificate of a region's SNS is issued: the older regions share one, the younger have
// their own, and so have China and GovCloud, which sign as their first region.
func snsNames(topic string) []string {
	host := snsHost(topic)
	region, suffix, _ := strings.Cut(strings.TrimPrefix(host, "sns."), ".")
	switch {
	case host == "":
		return nil
	case strings.HasPrefix(topic, "arn:aws-cn:"):
		return []string{host, "sns-" + region + "." + suffix}
	case strings.HasPrefix(topic, "arn:aws-us-gov:"):
		return []string{host, "sns-" + region + "." + suffix, "sns-us-gov-west-1.amazonaws.com"}
	default:
		return []string{host, "sns-signing." + region + "." + suffix, "sns.amazonaws.com"}
	}
}

func snsWindow(Settings) Window { return Window{Past: snsPast, Future: replayWindow} }

func snsCertificateURL(r Request) (string, error) {
	doc, err := snsEnvelope(r)
	if err != nil {
		return "", err
	}
	text := doc.text("SigningCertURL")
	u, ok := vendorURL(text)
	if !ok || u.Host != snsHost(doc.text("TopicArn")) || !snsCertificatePath.MatchString(u.EscapedPath()) || u.RawQuery != "" || u.ForceQuery {
		return "", refuse(ReasonSignatureMalformed, "SigningCertURL must be https, of SNS in the topic's region, and /SimpleNotificationService-....pem")
	}
	return text, nil
}

// snsEnvelope reads the body of a delivery that may be signed.
func snsEnvelope(r Request) (object, error) {
	if len(r.Header.Values(snsRaw)) > 0 {
		return nil, refuse(ReasonSignatureMissing, "raw message delivery carries no signature: switch it off in the subscription")
	}
	doc, err := parseObject(r.Body)
	if err != nil {
		return nil, err
	}
	if snsSigned[doc.text("Type")] == nil {
		return nil, refuse(ReasonSignatureMissing, "expected the envelope of SNS with a Type that it signs")
	}
	return doc, nil
}

// snsContent is what is signed. Only Message may have line breaks, so that the fields cannot be cut in another way.
func snsContent(doc object) ([]byte, error) {
	var content bytes.Buffer
	for _, name := range snsSigned[doc.text("Type")] {
		raw, found := doc[name]
		if name == "Subject" && (!found || string(raw) == "null") {
			continue
		}
		value := unquote(raw)
		if len(raw) == 0 || raw[0] != '"' || (name != "Message" && strings.ContainsAny(value, "\r\n")) {
			return nil, refuse(ReasonSignatureMalformed, "the signed field "+name+" must be a text of one line")
		}
		content.WriteString(name + "\n" + value + "\n")
	}
	return content.Bytes(), nil
}

func snsVerify(r Request, _ []string, s Settings) (int, error) {
	set, ok := s.(*snsSettings)
	if !ok {
		return -1, refuse(ReasonSettingsInvalid, "the endpoint has no topic_arns")
	}
	doc, err := snsEnvelope(r)
	if err != nil {
		return -1, err
	}
	if version := doc.text("SignatureVersion"); version != set.version {
		return -1, refuse(ReasonSignatureMalformed, "SignatureVersion must be "+set.version+": set that attribute of the topic, or signature_version here")
	}
	signature, err := decodeRSASignature(doc.text("Signature"), "Signature")
	if err != nil {
		return -1, err
	}
	content, err := snsContent(doc)
	if err != nil {
		return -1, err
	}
	key, err := signerKey(r, snsNames(doc.text("TopicArn"))...)
	if err != nil {
		return -1, err
	}
	if !verifyRSA(key, snsHashes[set.version], content, signature) {
		return -1, refuse(ReasonSignatureMismatch, "the certificate of SNS did not make this signature over these fields")
	}
	if !slices.Contains(set.topics, doc.text("TopicArn")) {
		return -1, refuse(ReasonSenderUnknown, "the topic is not one of topic_arns")
	}
	signed := doc.time("Timestamp")
	if signed.IsZero() {
		return -1, refuse(ReasonTimestampMalformed, "Timestamp must be a time of RFC 3339")
	}
	return -1, checkWindow(signed, r.ReceivedAt, snsWindow(s))
}

var snsHashes = map[string]crypto.Hash{"1": crypto.SHA1, "2": crypto.SHA256}

// snsHandshake confirms a subscription: its URL must be the one that SNS has for this topic and this token, both signed.
func snsHandshake(r Request, _ string, _ Settings) *Answer {
	doc, err := snsEnvelope(r)
	if err != nil || doc.text("Type") != snsSubscribe {
		return nil
	}
	text := doc.text("SubscribeURL")
	u, ok := vendorURL(text)
	if !ok || u.Host != snsHost(doc.text("TopicArn")) || u.EscapedPath() != "/" {
		return nil // which Events refuses
	}
	query := u.Query()
	if query.Get("Action") != "ConfirmSubscription" || query.Get("TopicArn") != doc.text("TopicArn") ||
		query.Get("Token") != doc.text("Token") || doc.text("Token") == "" {
		return nil
	}
	return &Answer{Status: http.StatusOK, Visit: text}
}

func snsEvents(r Request, _ Settings) ([]Event, error) {
	doc, err := snsEnvelope(r)
	if err != nil {
		return nil, err
	}
	topic := doc.text("TopicArn")
	event := Event{ID: doc.text("MessageId"), OccurredAt: doc.time("Timestamp")}
	inner := json.RawMessage(doc.text("Message"))
	switch doc.text("Type") {
	case snsSubscribe:
		return nil, refuse(ReasonPayloadMalformed, "SubscribeURL must be https, of SNS in the topic's region, for the topic and the Token of the message")
	case snsUnsubscribe:
		event.Type, event.Entity, inner = snsUnsubscribe, entity("topic", topic), nil
	default:
		var at time.Time
		event.Type, event.Entity, at = snsSubject(inner)
		event.Type = cmp.Or(event.Type, doc.text("Subject"), snsNotification)
		if !at.IsZero() {
			event.OccurredAt = at
		}
	}
	payload := map[string]json.RawMessage{}
	for _, name := range snsSigned[snsNotification] { // not the Token, with which anybody could subscribe
		if raw, found := doc[name]; found {
			payload[name] = raw
		}
	}
	if start := bytes.TrimSpace(inner); len(start) > 0 && (start[0] == '{' || start[0] == '[') && json.Valid(inner) {
		payload["message_json"] = inner
	}
	if event.Payload, err = json.Marshal(payload); err != nil {
		return nil, refuse(ReasonPayloadMalformed, "the message cannot be written as JSON")
	}
	return []Event{event}, nil
}

// snsSubject reads the message of those services of AWS that publish JSON to a topic: EventBridge, S3, CloudWatch and SES.
// What is not known keeps its Subject for a type.
func snsSubject(message json.RawMessage) (kind, about string, at time.Time) {
	doc, err := parseObject(message)
	if err != nil {
		return "", "", time.Time{}
	}
	if kind := doc.text("detail-type"); kind != "" {
		var resources []string
		if json.Unmarshal(doc["resources"], &resources) == nil && len(resources) == 1 {
			about = entity("resource", resources[0])
		}
		return kind, about, doc.time("time")
	}
	if state := doc.text("NewStateValue"); state != "" && doc.text("AlarmName") != "" {
		return "alarm." + strings.ToLower(state), entity("alarm", cmp.Or(doc.text("AlarmArn"), doc.text("AlarmName"))),
			doc.timeAs("StateChangeTime", "2006-01-02T15:04:05.999Z0700", time.RFC3339Nano)
	}
	if kind := cmp.Or(doc.text("notificationType"), doc.text("eventType")); kind != "" && doc.in("mail") != nil {
		return "ses." + strings.ToLower(kind), entity("mail", doc.in("mail").text("messageId")), time.Time{}
	}
	if records, err := elements(doc["Records"]); err == nil && len(records) == 1 && isObject(records[0]) {
		record := members(records[0])
		if name := record.text("eventName"); name != "" {
			where := record.in("s3")
			return strings.TrimPrefix(record.text("eventSource"), "aws:") + "." + name,
				entity("object", where.within("bucket").text("name"), where.within("object").text("key")), record.time("eventTime")
		}
	}
	return "", "", time.Time{}
}

// noSecret is CheckSecret of a source that proves itself by a certificate.
func noSecret(string, Settings) error { return errNoSecretHere }
