import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { writeFileAtomic } from '../../../shared/files/atomic-write.ts'
import { checkKeyPair } from '../../../shared/trust/key-pair.ts'
import { defineCommand } from '../../command-line.ts'
import { caPaths, defaultFolder, dirOption, readNeeded } from './folder.ts'
import { nameOptions, parseFileName, parseNames } from './names.ts'

/** `outport certs issue` */
export const issue = defineCommand({
  name: 'certs issue',
  summary: 'issue a server certificate for some names, valid 398 days',
  options: {
    ...nameOptions,
    dir: dirOption,
    out: { type: 'string', value: 'DIR', help: 'where to write (default: the folder of the CA)' },
    name: { type: 'string', value: 'NAME', help: 'the name of the files (default server)' },
  },
  notes: `Writes NAME.crt (the certificate and the CA's behind it) and NAME.key (mode 0600), over older ones. A listener gets them by
  tls: {cert: NAME.crt, key: NAME.key}
and takes new ones without a restart.`,
  async run({ host, ip, dir = defaultFolder, out = dir, name = 'server' }) {
    const names = parseNames({ host, ip })
    const file = parseFileName('name', name)
    const paths = caPaths(dir)
    const hint = `make a CA with 'outport certs init', or name its folder with --dir`
    const ca = {
      cert: await readNeeded(paths.cert, hint),
      key: await readNeeded(paths.key, hint),
    }
    checkKeyPair({ name: paths.cert, pem: ca.cert }, { name: paths.key, pem: ca.key })
    const { issueServerCertificate } = await import('../../../shared/trust/pki.ts')
    const pair = await issueServerCertificate(ca, { names, now: new Date() })
    await mkdir(out, { recursive: true })
    const written = { cert: join(out, `${file}.crt`), key: join(out, `${file}.key`) }
    await writeFileAtomic(written.key, pair.key, { mode: 0o600 })
    await writeFileAtomic(written.cert, pair.cert, { mode: 0o644 })
    process.stdout.write(`${written.cert}\n${written.key}\n`)
    return 0
  },
})
