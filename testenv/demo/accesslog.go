// SPDX-License-Identifier: Apache-2.0

package demo

import "encoding/json"

// accessLine is what the demo reads of a line of the agent's access log.
type accessLine struct {
	Client   string `json:"client"`
	SNI      string `json:"sni"`
	Endpoint string `json:"endpoint"`
	Upstream string `json:"upstream"`
	// ForwardedTo are the endpoints that policies forwarded it to.
	ForwardedTo []string `json:"forwarded_to"`
	Match       string   `json:"match"`
	Engine      string   `json:"engine"`
	BytesIn     int64    `json:"bytes_in"`
	BytesOut    int64    `json:"bytes_out"`
	Outcome     string   `json:"outcome"`
	Reason      string   `json:"reason"`
	End         string   `json:"end"`
}

// accessLog finds lines by the client's address. The kernel does not give an
// address out twice within the few hundred connections of a demo.
type accessLog map[string]accessLine

// readAccessLog takes the agent's output apart: one line for each connection,
// and the rest, which is its own log.
func readAccessLog(lines []string) (log accessLog, rest []string) {
	log = make(accessLog, len(lines))
	for _, line := range lines {
		var l accessLine
		if json.Unmarshal([]byte(line), &l) != nil || l.Outcome == "" {
			rest = append(rest, line)
			continue
		}
		log[l.Client] = l
	}
	return log, rest
}
