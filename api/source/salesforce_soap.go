package source

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
)

const (
	soapEnvelope = "http://schemas.xmlsoap.org/soap/envelope/"
	xmlInstance  = "http://www.w3.org/2001/XMLSchema-instance"
	// xmlDepthMax and xmlNodesMax bound a document: 100 notifications of a few hundred fields, in a handful of levels.
	xmlDepthMax = 16
	xmlNodesMax = 100_000
)

var errXML = errors.New("expected a document of XML within bounds")

// xmlNode is an element: of its attributes only what SOAP says of a value, and either children or text.
type xmlNode struct {
	space, name string
	kind        string // xsi:type without its prefix
	null        bool   // xsi:nil
	text        []byte
	children    []*xmlNode
}

// parseXML reads a document of XML in UTF-8. It takes no DTD and with it no entities but XML's own five, and is bounded in
// depth and size.
func parseXML(body []byte) (*xmlNode, error) {
	decoder := xml.NewDecoder(bytes.NewReader(body))
	var root *xmlNode
	var open []*xmlNode
	for nodes := 0; ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) && root != nil && len(open) == 0 {
			return root, nil
		}
		if err != nil {
			return nil, errXML
		}
		switch t := token.(type) {
		case xml.StartElement:
			node := newXMLNode(t)
			if nodes++; nodes > xmlNodesMax || len(open) == xmlDepthMax || (root != nil && len(open) == 0) {
				return nil, errXML
			}
			if root == nil {
				root = node
			} else {
				parent := open[len(open)-1]
				parent.children = append(parent.children, node)
			}
			open = append(open, node)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				open[len(open)-1].text = append(open[len(open)-1].text, t...)
			} else if len(bytes.TrimSpace(t)) > 0 {
				return nil, errXML
			}
		case xml.Directive:
			return nil, errXML
		}
	}
}

func newXMLNode(start xml.StartElement) *xmlNode {
	node := &xmlNode{space: start.Name.Space, name: start.Name.Local}
	for _, attr := range start.Attr {
		if attr.Name.Space != xmlInstance {
			continue
		}
		switch attr.Name.Local {
		case "type":
			node.kind = attr.Value[strings.LastIndexByte(attr.Value, ':')+1:]
		case "nil":
			node.null = attr.Value == "true" || attr.Value == "1"
		}
	}
	return node
}

// child gives the one child of a name, and nil if there is none, or more than one.
func (n *xmlNode) child(name string) *xmlNode {
	if all := n.all(name); len(all) == 1 {
		return all[0]
	}
	return nil
}

// all gives the children of a name.
func (n *xmlNode) all(name string) []*xmlNode {
	var all []*xmlNode
	if n != nil {
		for _, child := range n.children {
			if child.name == name {
				all = append(all, child)
			}
		}
	}
	return all
}

// value is the text of an element without the spaces around it, and "" if there is no element.
func (n *xmlNode) value() string {
	if n == nil {
		return ""
	}
	return string(bytes.TrimSpace(n.text))
}

// json is what an element says: null, its text as it is, or its children by name. A name that is repeated is refused, for
// it cannot be told which counts.
func (n *xmlNode) json() (any, error) {
	switch {
	case n.null:
		return nil, nil //nolint:nilnil // JSON's null
	case len(n.children) == 0:
		return string(n.text), nil
	}
	fields := make(map[string]any, len(n.children))
	for _, child := range n.children {
		if _, found := fields[child.name]; found {
			return nil, errXML
		}
		value, err := child.json()
		if err != nil {
			return nil, err
		}
		fields[child.name] = value
	}
	return fields, nil
}
