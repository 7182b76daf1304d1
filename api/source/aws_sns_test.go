package source_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

// sns is an endpoint of the sample topic, and a key whose certificate it trusts.
type sns struct {
	source.Source

	settings source.Settings
	key      source.Trial
}

func newSNS(t *testing.T, settings string) sns {
	t.Helper()
	s, _ := source.Get("aws_sns")
	set, faults := s.ParseSettings(json.RawMessage(settings))
	require.Empty(t, faults)
	key, err := s.Trial()
	require.NoError(t, err)
	return sns{s, set, key}
}

// envelope signs fields by the rule of SNS, written here a second time.
func (s sns) envelope(t *testing.T, version string, order []string, fields map[string]string) source.Request {
	t.Helper()
	content := ""
	for _, name := range order {
		content += name + "\n" + fields[name] + "\n"
	}
	sum1, sum2 := sha1.Sum([]byte(content)), sha256.Sum256([]byte(content))
	hash, sum := crypto.SHA256, sum2[:]
	if version == "1" {
		hash, sum = crypto.SHA1, sum1[:]
	}
	signature, err := rsa.SignPKCS1v15(nil, trialKey(t, s.key), hash, sum)
	require.NoError(t, err)
	all := map[string]string{"SignatureVersion": version, "Signature": base64.StdEncoding.EncodeToString(signature)}
	maps.Copy(all, fields)
	body, err := json.MarshalIndent(all, "", "  ")
	require.NoError(t, err)
	return source.Request{
		Method: http.MethodPost, URL: publicURL, Header: headers("Content-Type", "text/plain; charset=UTF-8"), Body: body, ReceivedAt: noon,
		Certificate: s.key.Certificate, Roots: s.key.Roots,
	}
}

var (
	snsNotificationOrder = []string{"Message", "MessageId", "Timestamp", "TopicArn", "Type"}
	snsSubjectOrder      = []string{"Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"}
	snsConfirmOrder      = []string{"Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"}
)

func snsFields(more ...string) map[string]string {
	fields := map[string]string{
		"Type": "Notification", "MessageId": "id-1", "TopicArn": snsTopic, "Message": "line one\nline \"two\" é",
		"Timestamp": "2026-03-04T11:59:00.123Z",
	}
	for i := 0; i < len(more); i += 2 {
		fields[more[i]] = more[i+1]
	}
	return fields
}

const snsSubscribeURL = "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=" + snsTopic + "&Token=token-1"

func snsConfirmation(more ...string) map[string]string {
	return snsFields(append([]string{"Type", "SubscriptionConfirmation", "Token", "token-1", "SubscribeURL", snsSubscribeURL}, more...)...)
}

func TestSNSTakesWhatSNSSigns(t *testing.T) {
	t.Parallel()
	v2 := newSNS(t, `{"topic_arns": ["arn:aws:sns:us-east-1:123456789012:other.fifo", "`+snsTopic+`"]}`)
	v1 := newSNS(t, `{"topic_arns": ["`+snsTopic+`"], "signature_version": "1"}`)
	for _, c := range []struct {
		title   string
		s       sns
		version string
		order   []string
		fields  map[string]string
		reason  string
	}{
		{"Plain", v2, "2", snsNotificationOrder, snsFields(), ""},
		{"Subject", v2, "2", snsSubjectOrder, snsFields("Subject", "A subject"), ""},
		{"EmptySubject", v2, "2", snsSubjectOrder, snsFields("Subject", ""), ""},
		{"Confirmation", v2, "2", snsConfirmOrder, snsConfirmation(), ""},
		{"Unsubscribed", v2, "2", snsConfirmOrder, snsConfirmation("Type", "UnsubscribeConfirmation"), ""},
		{"SHA1", v1, "1", snsNotificationOrder, snsFields(), ""},
		{"SHA1IsNotTheDefault", v2, "1", snsNotificationOrder, snsFields(), source.ReasonSignatureMalformed},
		{"SHA256IsNotTakenForSHA1", v1, "2", snsNotificationOrder, snsFields(), source.ReasonSignatureMalformed},
		{"AnotherTopic", v2, "2", snsNotificationOrder, snsFields("TopicArn", "arn:aws:sns:us-east-1:123456789012:stranger"), source.ReasonSenderUnknown},
		{"AnotherAccount", v2, "2", snsNotificationOrder, snsFields("TopicArn", "arn:aws:sns:us-east-1:210987654321:sample-topic"), source.ReasonSenderUnknown},
		{"NoTopic", v2, "2", snsNotificationOrder, snsFields("TopicArn", "x"), source.ReasonCertificateUntrusted},
		{"UnsignedSubject", v2, "2", snsNotificationOrder, snsFields("Subject", "A subject"), source.ReasonSignatureMismatch},
		{"UnsignedToken", v2, "2", []string{"Message", "MessageId", "SubscribeURL", "Timestamp", "TopicArn", "Type"}, snsConfirmation(), source.ReasonSignatureMismatch},
		{"UnknownType", v2, "2", snsNotificationOrder, snsFields("Type", "Other"), source.ReasonSignatureMissing},
		{"LineBreakInAnID", v2, "2", snsNotificationOrder, snsFields("MessageId", "id\nTimestamp\n2026-03-04T12:00:00Z"), source.ReasonSignatureMalformed},
		{"LineBreakInASubject", v2, "2", snsSubjectOrder, snsFields("Subject", "a\nTimestamp\nb"), source.ReasonSignatureMalformed},
		{"Old", v2, "2", snsNotificationOrder, snsFields("Timestamp", "2026-03-04T10:44:59Z"), source.ReasonTimestampStale},
		{"LastRetry", v2, "2", snsNotificationOrder, snsFields("Timestamp", "2026-03-04T10:45:00Z"), ""},
		{"NoTime", v2, "2", snsNotificationOrder, snsFields("Timestamp", "yesterday"), source.ReasonTimestampMalformed},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			matched, err := c.s.Verify(c.s.envelope(t, c.version, c.order, c.fields), nil, c.s.settings)
			require.Equal(t, -1, matched)
			if c.reason == "" {
				require.NoError(t, err)
				return
			}
			requireReason(t, err, c.reason)
		})
	}
}

// The fields are signed one after another with line breaks between them. A publisher who may write a Message must not be able
// to have it cut so that it becomes other fields.
func TestSNSMessageCannotBecomeOtherFields(t *testing.T) {
	t.Parallel()
	s := newSNS(t, `{"topic_arns": ["`+snsTopic+`"]}`)
	inner := "hello\nMessageId\nforged\nTimestamp\n2026-03-04T11:59:00Z\nTopicArn\n" + snsTopic + "\nType\nNotification"
	genuine := s.envelope(t, "2", snsNotificationOrder, snsFields("Message", inner))
	_, err := s.Verify(genuine, nil, s.settings)
	require.NoError(t, err)
	var forged map[string]string
	require.NoError(t, json.Unmarshal(genuine.Body, &forged))
	forged["Message"], forged["MessageId"], forged["Timestamp"] = "hello", "forged", "2026-03-04T11:59:00Z"
	forged["Type"] = "Notification\nMessageId\nid-1\nTimestamp\n2026-03-04T11:59:00.123Z\nTopicArn\n" + snsTopic + "\nType\nNotification"
	genuine.Body, err = json.Marshal(forged)
	require.NoError(t, err)
	_, err = s.Verify(genuine, nil, s.settings)
	require.Error(t, err)
}

func TestSNSRawDeliveryIsRefused(t *testing.T) {
	t.Parallel()
	s := newSNS(t, `{"topic_arns": ["`+snsTopic+`"]}`)
	r := s.envelope(t, "2", snsNotificationOrder, snsFields())
	r.Header.Set("X-Amz-Sns-Rawdelivery", "true")
	_, err := s.Verify(r, nil, s.settings)
	requireReason(t, err, source.ReasonSignatureMissing)
	_, err = s.CertificateURL(r)
	requireReason(t, err, source.ReasonSignatureMissing)
	_, err = s.Verify(s.envelope(t, "2", snsNotificationOrder, snsFields()), nil, nil)
	requireReason(t, err, source.ReasonSettingsInvalid)
}

// A subscription is confirmed at the URL that SNS has for this very topic and token, and nowhere else.
func TestSNSConfirmsASubscription(t *testing.T) {
	t.Parallel()
	s := newSNS(t, `{"topic_arns": ["`+snsTopic+`"]}`)
	answer := s.Handshake(s.envelope(t, "2", snsConfirmOrder, snsConfirmation()), "", s.settings)
	require.Equal(t, &source.Answer{Status: http.StatusOK, Visit: snsSubscribeURL}, answer)
	for _, forged := range []string{
		"", "http" + snsSubscribeURL[5:], strings.Replace(snsSubscribeURL, "us-east-1.amazonaws.com/", "us-west-2.amazonaws.com/", 1),
		strings.Replace(snsSubscribeURL, "amazonaws.com/", "amazonaws.com.evil.example/", 1), strings.Replace(snsSubscribeURL, "amazonaws.com/", "amazonaws.com:8080/", 1),
		strings.Replace(snsSubscribeURL, "://", "://user@", 1), strings.Replace(snsSubscribeURL, "/?", "/other?", 1), strings.Replace(snsSubscribeURL, "Confirm", "Delete", 1),
		strings.Replace(snsSubscribeURL, "Token=token-1", "Token=token-2", 1), strings.Replace(snsSubscribeURL, "sample-topic", "other", 1), snsSubscribeURL + "#x",
	} {
		r := s.envelope(t, "2", snsConfirmOrder, snsConfirmation("SubscribeURL", forged))
		require.Nil(t, s.Handshake(r, "", s.settings), forged)
		_, err := s.Events(r, s.settings)
		requireReason(t, err, source.ReasonPayloadMalformed)
	}
	require.Nil(t, s.Handshake(s.envelope(t, "2", snsConfirmOrder, snsConfirmation("Type", "UnsubscribeConfirmation")), "", s.settings))
	require.Nil(t, s.Handshake(s.envelope(t, "2", snsNotificationOrder, snsFields()), "", s.settings))
}

func TestSNSNamesWhatServicesPublish(t *testing.T) {
	t.Parallel()
	s := newSNS(t, `{"topic_arns": ["`+snsTopic+`"]}`)
	published := time.Date(2026, 3, 4, 11, 59, 0, 123e6, time.UTC)
	for _, c := range []struct {
		title, message, subject string
		kind, entity            string
		at                      time.Time
	}{
		{"Text", "hello", "", "Notification", "", published},
		{"SubjectOfText", "hello", "Disk is full", "Disk is full", "", published},
		{"OwnJSON", `{"order": 12345678901234567890}`, "", "Notification", "", published},
		{"Array", `[1]`, "", "Notification", "", published},
		{"BrokenJSON", `{"order": `, "", "Notification", "", published},
		{
			"EventBridge", `{"version":"0","id":"x","detail-type":"EC2 Instance State-change Notification","source":"aws.ec2","time":"2026-03-04T11:58:00Z",
			"resources":["arn:aws:ec2:us-east-1:123456789012:instance/i-1"],"detail":{"state":"stopped"}}`, "",
			"EC2 Instance State-change Notification", "resource:arn:aws:ec2:us-east-1:123456789012:instance/i-1", time.Date(2026, 3, 4, 11, 58, 0, 0, time.UTC),
		},
		{
			"Alarm", `{"AlarmName":"a","AlarmArn":"arn:a","NewStateValue":"INSUFFICIENT_DATA","StateChangeTime":"2026-03-04T12:58:00.123+0100"}`, "ALARM: a",
			"alarm.insufficient_data", "alarm:arn:a", time.Date(2026, 3, 4, 11, 58, 0, 123e6, time.UTC),
		},
		{"SES", `{"notificationType":"Bounce","mail":{"messageId":"m-1"},"bounce":{}}`, "", "ses.bounce", "mail:m-1", published},
		{"SESEvent", `{"eventType":"Rendering Failure","mail":{"messageId":"m-1"}}`, "", "ses.rendering failure", "mail:m-1", published},
		{
			"S3", `{"Records":[{"eventSource":"aws:s3","eventTime":"2026-03-04T11:58:00.5Z","eventName":"ObjectRemoved:Delete","s3":{"bucket":{"name":"b"},"object":{"key":"a+b"}}}]}`, "Amazon S3 Notification",
			"s3.ObjectRemoved:Delete", "object:b:a+b", time.Date(2026, 3, 4, 11, 58, 0, 5e8, time.UTC),
		},
		{"S3Test", `{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"b"}`, "Amazon S3 Notification", "Amazon S3 Notification", "", published},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			order, fields := snsNotificationOrder, snsFields("Message", c.message, "MessageAttributes", "unsigned", "UnsubscribeURL", "https://unsigned")
			if c.subject != "" {
				order, fields["Subject"] = snsSubjectOrder, c.subject
			}
			events, err := s.Events(s.envelope(t, "2", order, fields), s.settings)
			require.NoError(t, err)
			require.Equal(t, []source.Event{{ID: "id-1", Type: c.kind, OccurredAt: c.at, Entity: c.entity}}, named(events))
			var payload map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(events[0].Payload, &payload))
			require.NotContains(t, string(events[0].Payload), "unsigned")
			require.NotContains(t, payload, "Signature")
			if strings.HasSuffix(c.message, "}") || strings.HasSuffix(c.message, "]") {
				require.JSONEq(t, c.message, string(payload["message_json"]))
				return
			}
			require.NotContains(t, payload, "message_json")
		})
	}
	events, err := s.Events(s.envelope(t, "2", snsConfirmOrder, snsConfirmation("Type", "UnsubscribeConfirmation")), s.settings)
	require.NoError(t, err)
	require.Equal(t, []source.Event{{ID: "id-1", Type: "UnsubscribeConfirmation", OccurredAt: published, Entity: "topic:" + snsTopic}}, named(events))
	require.NotContains(t, string(events[0].Payload), "token-1")
}

// The names on a certificate of SNS differ by region, and one region's must not do for another's.
func TestSNSCertificateIsOfTheTopicsRegion(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		topic, name string
		good        bool
	}{
		{"arn:aws:sns:us-east-1:123456789012:t", "sns.amazonaws.com", true},
		{"arn:aws:sns:us-east-1:123456789012:t", "sns.us-east-1.amazonaws.com", true},
		{"arn:aws:sns:us-east-1:123456789012:t", "sns.us-east-2.amazonaws.com", false},
		{"arn:aws:sns:af-south-1:123456789012:t", "sns-signing.af-south-1.amazonaws.com", true},
		{"arn:aws:sns:us-east-1:123456789012:t", "sns-signing.af-south-1.amazonaws.com", false},
		{"arn:aws-us-gov:sns:us-gov-east-1:123456789012:t", "sns-us-gov-west-1.amazonaws.com", true},
		{"arn:aws-us-gov:sns:us-gov-east-1:123456789012:t", "sns.amazonaws.com", false},
		{"arn:aws-cn:sns:cn-north-1:123456789012:t", "sns-cn-north-1.amazonaws.com.cn", true},
		{"arn:aws-cn:sns:cn-north-1:123456789012:t", "sns.amazonaws.com", false},
	} {
		s := newSNS(t, `{"topic_arns": ["`+c.topic+`"]}`)
		made := issue(t, c.name, trialKey(t, s.key), nil)
		r := s.envelope(t, "2", snsNotificationOrder, snsFields("TopicArn", c.topic))
		r.Certificate, r.Roots = made.certificate, made.roots
		_, err := s.Verify(r, nil, s.settings)
		require.Equal(t, c.good, err == nil, "%s %s %v", c.topic, c.name, err)
	}
}

func TestSNSSettings(t *testing.T) {
	t.Parallel()
	s, _ := source.Get("aws_sns")
	for raw, place := range map[string]string{
		``: "topic_arns", `{"topic_arns": []}`: "topic_arns", `{"topic_arns": "` + snsTopic + `"}`: "topic_arns", `{"topic_arns": ["arn:aws:sns:us-east-1:1:t"]}`: "topic_arns",
		`{"topic_arns": ["arn:aws:sqs:us-east-1:123456789012:t"]}`: "topic_arns", `{"topic_arns": ["` + snsTopic + `:subscription"]}`: "topic_arns",
		`{"topic_arns": ["` + snsTopic + `"], "signature_version": "3"}`: "signature_version", `{"topic_arns": ["` + snsTopic + `"], "topic": 1}`: "topic",
	} {
		_, faults := s.ParseSettings(json.RawMessage(raw))
		require.Len(t, faults, 1, raw)
		require.Equal(t, place, faults[0].Place)
	}
	require.Error(t, s.CheckSecret("anything", nil))
	_, err := s.Sign(source.SignInput{Secret: "no key", Body: []byte(`{"Type":"Notification"}`), At: noon})
	require.Error(t, err)
}
