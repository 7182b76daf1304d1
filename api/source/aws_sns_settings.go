package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// snsTopicsMax bounds the topics of one endpoint.
const snsTopicsMax = 100

// errNoSecretHere is what CheckSecret answers where there is none to give.
var errNoSecretHere = errors.New("this source has no secret: it proves itself by its certificate")

// snsSettings say whose messages are taken, and signed how. They do not change.
type snsSettings struct {
	topics  []string
	version string
}

var snsSettingDocs = []Setting{
	{"topic_arns", "required: the list of the topics' ARNs whose messages are taken; those of any other are refused"},
	{"signature_version", "the topic's SignatureVersion: 2 for SHA-256, or 1 for SHA-1; else 2"},
}

func snsParseSettings(raw json.RawMessage) (Settings, []Fault) {
	set := &snsSettings{}
	return parsed(raw, set, func(in *settingReader) {
		set.topics = in.topics("topic_arns")
		set.version = choice(in, "signature_version", "2", map[string]string{"1": "1", "2": "2"})
	})
}

// topics reads the list of the ARNs of topics.
func (r *settingReader) topics(name string) []string {
	r.known = append(r.known, name)
	var topics []string
	if raw, found := r.fields[name]; found && json.Unmarshal(raw, &topics) != nil {
		r.fault(name, "must be a list of texts")
		return nil
	}
	if len(topics) == 0 || len(topics) > snsTopicsMax {
		r.fault(name, fmt.Sprintf("is required: 1 to %d ARNs of topics, such as arn:aws:sns:us-east-1:123456789012:orders", snsTopicsMax))
		return nil
	}
	for _, topic := range topics {
		if !snsARN.MatchString(topic) {
			r.fault(name, "must be ARNs of topics, such as arn:aws:sns:us-east-1:123456789012:orders")
			return nil
		}
	}
	return topics
}

// snsSign puts a sample into the envelope of the endpoint's first topic, as SNS would send it. The body it is given is the
// envelope without what only the settings know.
func snsSign(in SignInput) (Signed, error) {
	if in.Secret == "" {
		return Signed{}, errNoSecret
	}
	set, ok := in.Settings.(*snsSettings)
	if !ok {
		return Signed{}, refuse(ReasonSettingsInvalid, "the endpoint has no topic_arns")
	}
	doc, err := parseObject(in.Body)
	if err != nil {
		return Signed{}, err
	}
	topic, host := set.topics[0], snsHost(set.topics[0])
	for name, value := range map[string]string{
		"TopicArn": topic, "SignatureVersion": set.version,
		"SigningCertURL": "https://" + host + "/SimpleNotificationService-00000000000000000000000000000000.pem",
	} {
		if doc[name], err = json.Marshal(value); err != nil {
			return Signed{}, fmt.Errorf("write the envelope of a sample: %w", err)
		}
	}
	content, err := snsContent(doc)
	if err != nil {
		return Signed{}, err
	}
	signature, err := signRSA(in.Secret, snsHashes[set.version], func(string) []byte { return content })
	if err != nil {
		return Signed{}, err
	}
	if doc["Signature"], err = json.Marshal(signature); err != nil {
		return Signed{}, fmt.Errorf("write the envelope of a sample: %w", err)
	}
	body, err := json.Marshal(doc)
	if err != nil {
		return Signed{}, fmt.Errorf("write the envelope of a sample: %w", err)
	}
	h := in.Header.Clone()
	if h == nil {
		h = map[string][]string{}
	}
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	return Signed{h, body}, nil
}

func snsTrial() (Trial, error) {
	trial, err := newRSATrial("sns.amazonaws.com")
	if err != nil {
		return Trial{}, err
	}
	return trial.trial(""), nil
}

// snsSample makes a notification whose message is a JSON document, with the slots of sampleBody.
func snsSample(kind, message string) Sample {
	return Sample{Type: kind, Body: func(id string, at time.Time) []byte {
		text := `{"Type": "Notification", "MessageId": "$ID", "Timestamp": "$AT", "Message": "` +
			jsonInside(string(sampleBody(message)(id, at))) + `"}`
		return sampleBody(text)(id, at)
	}}
}

var snsSamples = []Sample{
	snsSample("alarm.alarm", `{"AlarmName": "checkout-errors", "AlarmArn": "arn:aws:cloudwatch:us-east-1:123456789012:alarm:checkout-errors",
  "AlarmDescription": "More than 5 failed checkouts in a minute", "AWSAccountId": "123456789012", "OldStateValue": "OK",
  "NewStateValue": "ALARM", "NewStateReason": "Threshold Crossed: 1 datapoint [9.0] was greater than the threshold (5.0).",
  "StateChangeTime": "$AT", "Region": "US East (N. Virginia)", "Trigger": {"MetricName": "Errors", "Namespace": "Shop", "Period": 60}}`),
	snsSample("s3.ObjectCreated:Put", `{"Records": [{"eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "us-east-1", "eventTime": "$AT",
  "eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "sample-invoices"}, "object": {"key": "2026/invoice-$NUMBER.pdf", "size": 48213}}}]}`),
}
