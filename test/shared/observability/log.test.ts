import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import {
  createLogger,
  redactText,
  type LogFields,
  type LogLevel,
} from '../../../shared/observability/log.ts'

function lines(level: LogLevel = 'debug') {
  const written: string[] = []
  const log = createLogger({
    level,
    bindings: { program: 'edge' },
    write: (line) => {
      written.push(line)
    },
  })
  return {
    log,
    written,
    last: () => JSON.parse(written.at(-1) ?? '{}') as LogFields & { readonly msg: string },
  }
}

test('a line is JSON with its level by name, its time, the bindings and the fields', () => {
  const { log, last } = lines()
  log.info({ route: 'blob', status: 200 }, 'request')
  const { level, time, program, route, status, msg } = last()
  assert.deepEqual([level, program, route, status, msg], ['info', 'edge', 'blob', 200, 'request'])
  assert.match(String(time), /^\d{4}-\d\d-\d\dT[\d:.]+Z$/)
})

test('a moment is written as one', () => {
  const { log, last } = lines()
  log.info({ validTo: new Date(0), unknown: new Date(NaN) }, 'certificate')
  assert.equal(last()['validTo'], '1970-01-01T00:00:00.000Z')
  assert.equal(last()['unknown'], undefined)
})

test('lines below the level are not written', () => {
  const { log, written } = lines('warn')
  log.debug({}, 'a')
  log.info({}, 'b')
  log.warn({}, 'c')
  log.error({}, 'd')
  assert.equal(written.length, 2)
})

test('no secret is written, wherever it hides', () => {
  const { log, written } = lines()
  const planted = 'PLANTED'
  const token = 'eyJhbGciOiJFUzI1NiJ9.eyJQTEFOVEVEIjoxfQ.PLANTEDsignature'
  log.info({ headers: { authorization: `Bearer ${planted}`, Cookie: planted } }, 'a')
  log.info(
    {
      password: planted,
      credentials: { a: planted },
      accessToken: planted,
      client_secret: planted,
    },
    'b',
  )
  log.info({ deep: { er: [{ private_key: planted }] } }, 'c')
  log.info({ url: `https://me:${planted}@host/v2/?token=${planted}&x=1` }, 'd')
  log.info({ url: new URL(`https://host/service/token?password=${planted}`) }, 'e')
  log.warn(`GET /service/token?account=me&password=${planted} failed`)
  log.warn(
    { note: `Authorization: Basic ${Buffer.from(planted).toString('base64')} ${token}` },
    token,
  )
  const cause = Object.assign(new Error(`connect postgres://me:${planted}@db/x`), {
    code: 'ECONNREFUSED',
    config: { password: planted },
    options: { headers: { authorization: planted } },
  })
  log.error({ err: new Error(`401 from https://h/x?sig=${planted}`, { cause }) }, 'f')
  log.child({ token: planted }).info({}, 'g')
  const all = written.join('')
  assert.doesNotMatch(all, /PLANTED/)
  assert.doesNotMatch(all, new RegExp(Buffer.from(planted).toString('base64').slice(0, 8)))
})

test('an error keeps its type, code, stack and causes', () => {
  const { log, last } = lines()
  const cause = Object.assign(new Error('disk'), { code: 'EIO' })
  log.error({ err: new TypeError('no blob', { cause }) }, 'failed')
  const err = last().err as Record<string, unknown>
  assert.equal(err['type'], 'TypeError')
  assert.match(String(err['stack']), /log\.test\.ts/)
  const described = err['cause'] as Record<string, unknown>
  assert.deepEqual([described['message'], described['code']], ['disk', 'EIO'])
})

test('words without secrets stay as they are', () => {
  for (const words of [
    'a token is needed',
    'Basic log-in is off',
    'what? why? /v2/ is the path',
    'sha256:abc',
    'https://host/path',
    'did you mean a/b?',
  ]) {
    assert.equal(redactText(words), words)
  }
})

test('a line that was made elsewhere has the same frame, in children too', () => {
  const { log, last } = lines()
  log.child({ listener: 'mirror', token: 'PLANTED' }).infoLine('"status":200,"msg":"request"')
  const { level, program, listener, status, msg, token } = last()
  assert.deepEqual(
    [level, program, listener, status, msg, token],
    ['info', 'edge', 'mirror', 200, 'request', '[redacted]'],
  )
})

test('lines come whole and in order through the buffer, however long they are', async () => {
  const logModule = new URL('../../../shared/observability/log.ts', import.meta.url).href
  const script = `
    const { createLogger } = await import(${JSON.stringify(logModule)})
    const log = createLogger({ level: 'info' })
    for (let n = 0; n < 300; n++) {
      log.infoLine('"n":' + n + ',"msg":"ü"')
      log.info({ n, text: 'é'.repeat(n * 100) }, 'x')
    }
  `
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const written = (await text(child.stdout)).trim().split('\n')
  const numbers = written.map((line) => (JSON.parse(line) as { readonly n: number }).n)
  assert.deepEqual(
    numbers,
    Array.from({ length: 600 }, (_, index) => Math.floor(index / 2)),
  )
})

test('what is buffered is written when the process exits', async () => {
  const logModule = new URL('../../../shared/observability/log.ts', import.meta.url).href
  const script = `
    const { createLogger } = await import(${JSON.stringify(logModule)})
    const log = createLogger({ level: 'info' })
    log.info({ route: 'last' }, 'bye')
    process.exit(3)
  `
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  assert.match(await text(child.stdout), /"route":"last".*"msg":"bye"/)
})
