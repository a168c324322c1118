import assert from 'node:assert/strict'
import type { LookupAddress, LookupOptions } from 'node:dns'
import { networkInterfaces } from 'node:os'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import {
  createGuard,
  ForbiddenAddressError,
  hostOf,
  kindOf,
  type AddressKind,
  type GuardOptions,
} from '../../../shared/http/guard.ts'

const kinds: readonly (readonly [string, AddressKind])[] = [
  ['8.8.8.8', 'public'],
  ['2606:4700::1111', 'public'],
  ['127.0.0.1', 'loopback'],
  ['127.255.255.254', 'loopback'],
  ['::1', 'loopback'],
  ['0.0.0.0', 'unspecified'],
  ['0.1.2.3', 'unspecified'],
  ['::', 'unspecified'],
  ['10.0.0.1', 'private'],
  ['172.16.0.1', 'private'],
  ['172.32.0.1', 'public'],
  ['192.168.255.255', 'private'],
  ['100.64.0.1', 'private'],
  ['fd12::1', 'private'],
  ['fec0::1', 'private'],
  ['169.254.0.1', 'link-local'],
  ['fe80::1', 'link-local'],
  ['fe80::1%eth0', 'link-local'],
  ['169.254.169.254', 'metadata'],
  ['169.254.170.2', 'metadata'],
  ['100.100.100.200', 'metadata'],
  ['fd00:ec2::254', 'metadata'],
  ['224.0.0.1', 'special'],
  ['255.255.255.255', 'special'],
  ['ff02::1', 'special'],
  ['2001:0:1::1', 'special'],
  ['no address', 'special'],
  ['', 'special'],
]

/** Spellings of addresses in URLs; the WHATWG parser and the guard have to agree that they are all refused. */
const spellings: readonly (readonly [string, AddressKind])[] = [
  ['http://127.1/', 'loopback'],
  ['http://2130706433/', 'loopback'],
  ['http://0x7f000001/', 'loopback'],
  ['http://0177.0.0.1/', 'loopback'],
  ['http://0x7f.0.0x0.1/', 'loopback'],
  ['http://127.0.0.1./', 'loopback'],
  ['http://①②⑦.0.0.1/', 'loopback'],
  ['http://[::1]/', 'loopback'],
  ['http://[0:0:0:0:0:0:0:1]/', 'loopback'],
  ['http://[::ffff:127.0.0.1]/', 'loopback'],
  ['http://[::ffff:7f00:1]/', 'loopback'],
  ['http://[::127.0.0.1]/', 'loopback'],
  ['http://[64:ff9b::127.0.0.1]/', 'loopback'],
  ['http://[64:ff9b:1::127.0.0.1]/', 'loopback'],
  ['http://[2002:7f00:1::]/', 'loopback'],
  ['http://[::ffff:0:127.0.0.1]/', 'loopback'],
  ['http://0/', 'unspecified'],
  ['http://[::]/', 'unspecified'],
  ['http://[::ffff:0.0.0.0]/', 'unspecified'],
  ['http://2852039166/', 'metadata'],
  ['http://[::ffff:169.254.169.254]/', 'metadata'],
  ['http://[64:ff9b::a9fe:a9fe]/', 'metadata'],
  ['http://[2002:a9fe:a9fe::1]/', 'metadata'],
  ['http://[::ffff:10.0.0.1]/', 'private'],
]

const refused = (why: RegExp) => (error: unknown) =>
  error instanceof ForbiddenAddressError && why.test(error.message)

describe('an address', () => {
  for (const [address, kind] of kinds) {
    test(`${address || "''"} is ${kind}`, () => assert.equal(kindOf(address), kind))
  }

  test('of IPv4 is the same in every IPv6 form that stands for it', () => {
    fc.assert(
      fc.property(fc.ipV4(), (address) => {
        const [a = 0, b = 0, c = 0, d = 0] = address.split('.').map(Number)
        const hex = `${(a * 256 + b).toString(16)}:${(c * 256 + d).toString(16)}`
        const forms = [
          `::ffff:${address}`,
          `::ffff:${hex}`,
          `0:0:0:0:0:FFFF:${hex}`,
          `64:ff9b::${address}`,
          `2002:${hex}::`,
          `2002:${hex}:1:2:3:4:5`,
        ]
        for (const form of forms) assert.equal(kindOf(form), kindOf(address), form)
      }),
    )
  })

  test('of any text has a kind', () => {
    fc.assert(
      fc.property(fc.oneof(fc.ipV6(), fc.string()), (text) => {
        kindOf(text)
      }),
    )
  })
})

describe('the guard', () => {
  const guard = createGuard({ configured: [] })

  for (const [text, kind] of spellings) {
    test(`refuses ${text} as ${kind}`, () => {
      const url = new URL(text)
      const host = hostOf(url)
      assert.throws(() => guard.check({ host, port: 80 }, host), refused(new RegExp(kind)))
    })
  }

  test('lets public addresses pass', () => {
    guard.check({ host: 'registry.example', port: 443 }, '8.8.8.8')
    guard.check({ host: '2606:4700::1111', port: 443 }, '2606:4700::1111')
  })

  test('lets what is configured have any address, for that port only', () => {
    const own = createGuard({
      configured: [new URL('https://Registry.example'), new URL('http://[::1]:5000')],
    })
    own.check({ host: 'registry.example', port: 443 }, '169.254.169.254')
    own.check({ host: 'REGISTRY.example', port: 443 }, '10.0.0.1')
    own.check({ host: '::1', port: 5000 }, '::1')
    const elsewhere = [
      { host: 'registry.example', port: 80 },
      { host: 'registry.example.', port: 443 },
      { host: 'x.registry.example', port: 443 },
      { host: '127.0.0.1', port: 443 },
    ]
    for (const target of elsewhere)
      assert.throws(() => own.check(target, '127.0.0.1'), refused(/loopback/))
  })

  test('allows private and loopback ranges that are listed, in every spelling, and no others', () => {
    const lenient = createGuard({
      configured: [],
      allow: ['10.1.0.0/16', '127.0.0.1', 'fd12::/16'],
    })
    for (const address of ['10.1.2.3', '::ffff:10.1.2.3', '127.0.0.1', 'fd12::1'])
      lenient.check({ host: 'storage.example', port: 9000 }, address)
    for (const address of ['10.2.0.1', '127.0.0.2', '::1', 'fd13::1', '192.168.0.1'])
      assert.throws(
        () => lenient.check({ host: 'storage.example', port: 9000 }, address),
        refused(/outbound\.allow can/),
      )
  })

  test('never allows link-local, metadata, unspecified and multicast addresses', () => {
    const lenient = createGuard({ configured: [], allow: ['0.0.0.0/0', '::/0'] })
    for (const address of ['169.254.169.254', '169.254.1.1', '0.0.0.0', '224.0.0.1', 'fe80::1'])
      assert.throws(() => lenient.check({ host: 'x.example', port: 80 }, address), address)
    lenient.check({ host: 'x.example', port: 80 }, '192.168.0.1')
  })

  test('refuses the listeners of this program whatever is allowed', () => {
    const own = createGuard({
      configured: [],
      allow: ['0.0.0.0/0', '::/0'],
      ownPorts: () => [8081],
    })
    const addresses = Object.values(networkInterfaces()).flatMap((found) => found ?? [])
    for (const { address } of [...addresses, { address: '127.0.0.9' }])
      assert.throws(() => own.check({ host: 'x.example', port: 8081 }, address))
    own.check({ host: 'x.example', port: 8082 }, '127.0.0.1')
    own.check({ host: 'x.example', port: 8081 }, '8.8.8.8')
  })

  test('says what to do, and not what it was asked to fetch', () => {
    assert.throws(
      () => guard.check({ host: 'inner.example', port: 80 }, '10.0.0.1'),
      refused(/inner\.example \(10\.0\.0\.1\) port 80 .* private; outbound\.allow/),
    )
  })

  test('refuses to be made with a range that is none', () => {
    for (const entry of ['10.0.0.0/33', '10.0.0.0/', 'example', '10.0.0.0/8/8', '::/129', '10.1/8'])
      assert.throws(() => createGuard({ configured: [], allow: [entry] }), new RegExp('neither'))
  })
})

describe('a guarded look-up', () => {
  test('gives out only the addresses that may be dialled', async () => {
    const found = await lookUp(['10.0.0.1', '8.8.8.8', '::1', '2606:4700::1'], { all: true })
    assert.deepEqual(found, [
      { address: '8.8.8.8', family: 4 },
      { address: '2606:4700::1', family: 6 },
    ])
  })

  test('gives the first good one to a caller who wants one', async () => {
    assert.equal(await lookUp(['127.0.0.1', '8.8.4.4'], {}), '8.8.4.4')
  })

  test('fails when no address is good', async () => {
    await assert.rejects(
      lookUp(['127.0.0.1', '::ffff:10.0.0.1'], { all: true }),
      refused(/private/),
    )
  })

  test('fails as the resolver fails', async () => {
    const gone = Object.assign(new Error('no such name'), { code: 'ENOTFOUND' })
    await assert.rejects(lookUp(gone, { all: true }), { code: 'ENOTFOUND' })
  })

  test('fails on a name without an address', async () => {
    await assert.rejects(lookUp([], { all: true }), /has no address/)
  })

  test('decides anew each time: a name that changes its mind gains nothing', async () => {
    for (const [rebound, kind] of [
      ['127.0.0.1', /loopback/],
      ['::1', /loopback/],
      ['169.254.169.254', /metadata/],
      ['::ffff:169.254.169.254', /metadata/],
      ['192.168.0.1', /private/],
      ['0.0.0.0', /unspecified/],
    ] as const) {
      const answers = [['8.8.8.8'], [rebound], ['8.8.4.4', rebound]]
      const lookup = resolver(() => answers.shift() ?? [])
      const guard = createGuard({ configured: [], lookup })
      assert.equal(await ask(guard, {}), '8.8.8.8')
      await assert.rejects(ask(guard, {}), refused(kind))
      // Beside a good one, too: what comes next in the list is dialled when the first does not answer.
      assert.deepEqual(await ask(guard, { all: true }), [{ address: '8.8.4.4', family: 4 }])
    }
  })
})

type Lookup = NonNullable<GuardOptions['lookup']>

function resolver(answer: () => readonly string[] | Error): Lookup {
  const lookup = (
    _host: string,
    _options: LookupOptions,
    done: (error: Error | null, found: LookupAddress[]) => void,
  ) => {
    const found = answer()
    if (found instanceof Error) return done(found, [])
    const family = (address: string) => (address.includes(':') ? 6 : 4)
    done(
      null,
      found.map((address) => ({ address, family: family(address) })),
    )
  }
  return lookup as unknown as Lookup
}

async function lookUp(found: readonly string[] | Error, options: LookupOptions) {
  return ask(createGuard({ configured: [], lookup: resolver(() => found) }), options)
}

async function ask(guard: ReturnType<typeof createGuard>, options: LookupOptions) {
  return new Promise<string | LookupAddress[]>((resolve, reject) => {
    guard.lookupFor(443)('x.example', options, (error, found) => {
      if (error === null) resolve(found)
      else reject(error)
    })
  })
}
