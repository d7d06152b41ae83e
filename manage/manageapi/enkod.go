package manageapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// enkodTests are the samples of enKod's documents, with addresses in the place of
// those that the page hides. The first letter of complaint is theirs: U+0441.
var enkodTests = []string{
	`{"event":"message sent","message_id":4,"message_uid":"0123456789_012_012_01234","sending_type":"instant","name":"Sending message (test)","from":"from@example.com","to":"to@example.com"}`,
	`{"event":"delivery bounce","message_id":4,"message_uid":"0123456789_012_012_01234","sending_type":"instant","name":"Error while sending message (test)","from":"from@example.com","to":"to@example.com","error_message":"Some error message"}`,
	`{"event":"message open","message_id":4,"message_uid":"0123456789_012_012_01234","sending_type":"instant","name":"Open message (test)","from":"from@example.com","to":"to@example.com"}`,
	`{"event":"message clicked","message_id":4,"message_uid":"0123456789_012_012_01234","sending_type":"instant","name":"Click in message (test)","from":"from@example.com","to":"to@example.com","click_url":"https://clicked.link/"}`,
	`{"event":"` + "\u0441" + `omplaint","message_id":4,"message_uid":"0123456789_012_012_01234","sending_type":"instant","name":"Complaint in message (test)","from":"from@example.com","to":"to@example.com"}`,
	`{"event":"mailing group subscribe","email":"to@example.com","group_id":4,"group_name":"Person subscribe (test)","channel":"email"}`,
	`{"event":"mailing group unsubscribe","email":"to@example.com","group_id":4,"group_name":"Person unsubscribe (test)","channel":"email"}`,
	`{"event":"contact adding","email":"to@example.com","phone":"80123456789","groups_names":["test_group_0","test_group_1"],"groups_ids":[0,1]}`,
}

// PressEnkod posts the first n of enKod's eight tests to a webhook, as enKod does when
// a person presses the button in its settings. It errs when one is not answered 200.
func PressEnkod(ctx context.Context, client *http.Client, webhook string, n int) error {
	for i, test := range enkodTests[:min(n, len(enkodTests))] {
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, webhook, strings.NewReader(test))
		if err != nil {
			return err
		}
		q.Header.Set("Content-Type", "application/json")
		a, err := client.Do(q)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(a.Body, 1<<10)) // enKod reads no more than the status
		_ = a.Body.Close()
		if a.StatusCode != http.StatusOK {
			return fmt.Errorf("test %d of %d was answered %d", i+1, len(enkodTests), a.StatusCode)
		}
	}
	return nil
}
