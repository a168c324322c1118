import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { formatHostsToml } from '../../../shared/clients/hosts-toml.ts'
import { writeFileAtomic } from '../../../shared/files/atomic-write.ts'
import { checkKeyPair, parseCertificate } from '../../../shared/trust/key-pair.ts'
import { defineCommand, UsageError } from '../../command-line.ts'
import { caPaths, defaultFolder, readNeeded } from './folder.ts'
import { parseRegistry } from './names.ts'

const clients = ['docker', 'containerd']

/** `outport certs layout` */
export const layout = defineCommand({
  name: 'certs layout',
  summary: 'write the certs.d folder that makes docker or containerd trust the CA',
  words: ['docker|containerd'],
  options: {
    registry: { type: 'string', value: 'HOST:PORT', help: 'the registry, as clients type it' },
    ca: {
      type: 'string',
      value: 'FILE',
      help: `the CA's certificate (default ./${defaultFolder}/ca.crt)`,
    },
    out: { type: 'string', value: 'DIR', help: 'where to write (default ./certs.d)' },
    'client-cert': { type: 'string', value: 'FILE', help: 'a certificate that the client shows' },
    'client-key': { type: 'string', value: 'FILE', help: 'its key' },
  },
  notes: `Copy the result to /etc/docker/certs.d or /etc/containerd/certs.d of each machine that pulls; neither needs a restart.
containerd reads it where config_path of its registry plugin is /etc/containerd/certs.d.`,
  async run(options, [client = '']) {
    if (!clients.includes(client)) {
      throw new UsageError(`there is no layout for '${client}'; there are ${clients.join(', ')}`)
    }
    if (options.registry === undefined) {
      throw new UsageError('certs layout needs the registry: --registry HOST:PORT')
    }
    const { authority } = parseRegistry(options.registry)
    const files = await readFiles(options)
    const folder = join(options.out ?? 'certs.d', authority)
    await mkdir(folder, { recursive: true })
    for (const [name, text] of files) {
      const path = join(folder, name)
      await writeFileAtomic(path, text, { mode: name === 'client.key' ? 0o600 : 0o644 })
      process.stdout.write(`${path}\n`)
    }
    if (client === 'containerd') {
      const path = join(folder, 'hosts.toml')
      await writeFileAtomic(path, hostsToml(authority, files), { mode: 0o644 })
      process.stdout.write(`${path}\n`)
    }
    return 0
  },
})

interface LayoutFiles {
  readonly ca: string | undefined
  readonly 'client-cert': string | undefined
  readonly 'client-key': string | undefined
}

/** The certificates to copy, by the names that docker looks for. [docker docs, certs.d] */
async function readFiles(options: LayoutFiles): Promise<ReadonlyMap<string, string>> {
  const ca = options.ca ?? caPaths(defaultFolder).cert
  const hint = "make a CA with 'outport certs init', or name the file with --ca"
  const pem = await readNeeded(ca, hint)
  parseCertificate({ name: ca, pem })
  const files = new Map([['ca.crt', pem]])
  const { 'client-cert': cert, 'client-key': key } = options
  if ((cert === undefined) !== (key === undefined)) {
    throw new UsageError('--client-cert and --client-key go together')
  }
  if (cert === undefined || key === undefined) return files
  const clientHint = 'name the files of the client certificate'
  const pair = { cert: await readNeeded(cert, clientHint), key: await readNeeded(key, clientHint) }
  checkKeyPair({ name: cert, pem: pair.cert }, { name: key, pem: pair.key })
  return files.set('client.cert', pair.cert).set('client.key', pair.key)
}

function hostsToml(authority: string, files: ReadonlyMap<string, string>): string {
  const client = files.has('client.cert') ? { cert: 'client.cert', key: 'client.key' } : undefined
  return formatHostsToml({
    server: `https://${authority}`,
    serverTls: { ca: 'ca.crt', ...(client === undefined ? {} : { client }) },
  })
}
