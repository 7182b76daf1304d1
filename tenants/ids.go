package tenants

import (
	"encoding/hex"
	"strings"

	"github.com/google/uuid"
)

// The prefixes of ids as people see them.
const (
	ActionPrefix     = "act"
	AlertPrefix      = "alt"
	AuditPrefix      = "aud"
	AutomationPrefix = "aut"
	CallPrefix       = "cal"
	ChannelPrefix    = "chn"
	CredentialPrefix = "crd"
	EndpointPrefix   = "end"
	EntryPrefix      = "ent"
	EventPrefix      = "evt"
	KeyPrefix        = "key"
	NoticePrefix     = "ntc"
	OperatorPrefix   = "opk"
	RaisePrefix      = "rai"
	ReplayPrefix     = "rpl"
	RunPrefix        = "run"
	SecretPrefix     = "sec"
	TenantPrefix     = "tnt"
)

// NewID makes a UUIDv7: ids sort by the time they were made.
func NewID() uuid.UUID { return uuid.Must(uuid.NewV7()) }

// FormatID writes an id as people see it: the prefix, an underscore, 32 hex digits.
func FormatID(prefix string, id uuid.UUID) string { return prefix + "_" + hex.EncodeToString(id[:]) }

// ParseID reads what FormatID wrote, of this prefix and no other spelling.
func ParseID(prefix, text string) (uuid.UUID, bool) {
	digits, ok := strings.CutPrefix(text, prefix+"_")
	if !ok || len(digits) != 32 || strings.ToLower(digits) != digits {
		return uuid.UUID{}, false
	}
	var id uuid.UUID
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return uuid.UUID{}, false
	}
	return id, true
}
