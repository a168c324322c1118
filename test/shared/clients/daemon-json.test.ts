import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { formatDaemonJson, mergeDaemonJson } from '../../../shared/clients/daemon-json.ts'
import { ClientFileError } from '../../../shared/clients/file-error.ts'

test('only what is given is written', () => {
  assert.equal(
    formatDaemonJson({ registryMirrors: ['http://127.0.0.1:8082'] }),
    '{"registry-mirrors":["http://127.0.0.1:8082"]}\n',
  )
  assert.deepEqual(JSON.parse(formatDaemonJson({ insecureRegistries: ['a:1', 'b"c'] })), {
    'insecure-registries': ['a:1', 'b"c'],
  })
})

describe('in a file of others', () => {
  const registryMirrors = ['https://near', 'https://far']

  test('mirrors are set, and all other settings stay in their order and indentation', () => {
    const existing = `{
    "debug": true,
    "registry-mirrors": ["https://old"],
    "log-opts": {
        "max-size": "10m"
    }
}
`
    const text = mergeDaemonJson(existing, { registryMirrors }, ['near', 'far'])
    assert.equal(
      text,
      `{
    "debug": true,
    "registry-mirrors": [
        "https://near",
        "https://far"
    ],
    "log-opts": {
        "max-size": "10m"
    }
}
`,
    )
    assert.equal(mergeDaemonJson(text, { registryMirrors }, ['near', 'far']), text)
  })

  test('one that says the same stays as it is written', () => {
    const existing = '{"x":1,   "registry-mirrors":["https://near", "https://far"]}'
    assert.equal(mergeDaemonJson(existing, { registryMirrors }, ['near']), existing)
  })

  test('an empty or missing one is made', () => {
    const text = mergeDaemonJson(' \n', { registryMirrors }, [])
    assert.deepEqual(JSON.parse(text), { 'registry-mirrors': registryMirrors })
    assert.match(text, /^\{\n {2}"registry-mirrors"/)
  })

  test('insecure registries of others stay; a host that this is about is one only if it is said', () => {
    const existing = JSON.stringify({ 'insecure-registries': ['lab:5000', 'near', 'far'] })
    const insecureIn = (text: string) =>
      (JSON.parse(text) as Record<string, unknown>)['insecure-registries']
    const about = ['near', 'far', 'primary']
    const merge = (insecureRegistries: readonly string[]) =>
      insecureIn(mergeDaemonJson(existing, { registryMirrors, insecureRegistries }, about))
    assert.deepEqual(merge(['primary', 'near']), ['lab:5000', 'near', 'primary'])
    assert.deepEqual(merge([]), ['lab:5000'])
  })

  for (const [existing, message] of [
    ['{', /it is not JSON/],
    ['[]', /not a JSON object/],
    ['null', /not a JSON object/],
    ['{"insecure-registries": "a"}', /not a list of strings/],
    ['{"a": 1} // x', /it is not JSON/],
  ] as const) {
    test(`${existing} is an error`, () => {
      assert.throws(
        () => mergeDaemonJson(existing, { registryMirrors }, []),
        (error) => error instanceof ClientFileError && message.test(error.message),
      )
    })
  }
})
