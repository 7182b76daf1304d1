package source

// The machine-readable reasons for which a delivery is refused.
const (
	ReasonCertificateMissing   = "certificate.missing"   // the certificate could not be had from where the delivery says it is
	ReasonCertificateUntrusted = "certificate.untrusted" // it is not the source's own, not valid at the time, or ends in no known root
	ReasonSenderUnknown        = "sender.unknown"        // rightly signed, by another (topic, organization) than the settings name
	ReasonSecretMissing        = "secret.missing"        // the endpoint has no usable secret, so nothing can hold
	ReasonSettingsInvalid      = "settings.invalid"      // the settings were not made by ParseSettings of this source
	ReasonSignatureMissing     = "signature.missing"     // no signature of the one scheme that is accepted
	ReasonSignatureMalformed   = "signature.malformed"   // a signature header that cannot be read
	ReasonSignatureMismatch    = "signature.mismatch"    // well formed, made with another secret or over other bytes
	ReasonTimestampMissing     = "timestamp.missing"     // the signed timestamp is absent
	ReasonTimestampMalformed   = "timestamp.malformed"   // the signed timestamp cannot be read
	ReasonTimestampStale       = "timestamp.stale"       // rightly signed, more than five minutes before it arrived
	ReasonTimestampFuture      = "timestamp.future"      // rightly signed, more than five minutes after it arrived
	ReasonPayloadMalformed     = "payload.malformed"     // rightly signed, not the document that the source sends
	ReasonIDMissing            = "id.missing"            // rightly signed, the event has no id
	ReasonIDMalformed          = "id.malformed"          // the id header is repeated
	ReasonTypeMissing          = "type.missing"          // rightly signed, the header with the type is absent
)

// Refusal is why a delivery was not accepted. It holds no value from the delivery and no secret, so it may be shown to
// the tenant and logged.
type Refusal struct {
	Reason string // one of the Reason constants
	Detail string // for a person: the place and what was expected there
}

// Error gives the reason and the detail.
func (r *Refusal) Error() string { return r.Reason + ": " + r.Detail }

func refuse(reason, detail string) error { return &Refusal{Reason: reason, Detail: detail} }
