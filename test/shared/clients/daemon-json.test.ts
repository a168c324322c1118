import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatDaemonJson } from '../../../shared/clients/daemon-json.ts'

test('only what is given is written', () => {
  assert.equal(
    formatDaemonJson({ registryMirrors: ['http://127.0.0.1:8082'] }),
    '{"registry-mirrors":["http://127.0.0.1:8082"]}\n',
  )
  assert.deepEqual(JSON.parse(formatDaemonJson({ insecureRegistries: ['a:1', 'b"c'] })), {
    'insecure-registries': ['a:1', 'b"c'],
  })
})
