import { proxyProblem } from '../shared/http/proxy.ts'
import type { EdgeOptions } from '../edge/config.ts'
import { describeConfig } from '../shared/config/describe.ts'
import type { ListenerOptions } from '../shared/config/server-options.ts'
import { ConfigError, type ConfigProblem } from '../shared/config/problems.ts'
import { readClientCertificate, readTlsFiles, TlsFilesError } from '../shared/http/tls-files.ts'
import { sections, type OutportConfig, type ProgramName } from './programs.ts'

/**
 * What `--check` does: prints the resolved configuration without secrets, or each problem on a line of its own. What
 * only a start would find out about the files of the programs that are to start is looked at, too.
 * @returns the exit code
 */
export async function check(
  programs: readonly ProgramName[],
  load: () => OutportConfig,
): Promise<number> {
  try {
    const config = load()
    const checked = await Promise.all([
      ...programs.map((name) => checkCertificates(config[name].listeners, name)),
      ...(programs.includes('edge') ? [checkUpstreams(config.edge)] : []),
    ])
    const problems = checked.flat()
    if (problems.length > 0) throw new ConfigError(problems)
    process.stdout.write(describeConfig(config, sections))
    return 0
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    process.stderr.write(`${error.message}\n`)
    return 1
  }
}

async function checkCertificates(
  listeners: readonly ListenerOptions[],
  section: string,
): Promise<readonly ConfigProblem[]> {
  const checked = listeners.flatMap(({ tls }, index) =>
    tls === undefined ? [] : [problemsOf(readTlsFiles(tls), `${section}.listeners.${index}.tls`)],
  )
  return (await Promise.all(checked)).flat()
}

/** The table has other places than the file's list: upstreams are named by their ids. */
async function checkUpstreams({
  upstreams,
  outbound,
}: EdgeOptions): Promise<readonly ConfigProblem[]> {
  const checked = upstreams.flatMap(({ id, client_cert }) =>
    client_cert === undefined
      ? []
      : [problemsOf(readClientCertificate(client_cert), `edge.upstreams.${id}.client_cert`)],
  )
  // What the file says of a proxy has been looked at already.
  const { https, http } = outbound.proxy ?? {}
  const proxies = { HTTPS_PROXY: https, HTTP_PROXY: http }
  const ofProxies = Object.entries(proxies).flatMap(([path, proxy]) => {
    const message = proxy === undefined ? undefined : proxyProblem(proxy)
    return message === undefined ? [] : [{ path, message }]
  })
  return [...(await Promise.all(checked)).flat(), ...ofProxies]
}

async function problemsOf(
  reading: Promise<unknown>,
  at: string,
): Promise<readonly ConfigProblem[]> {
  try {
    await reading
    return []
  } catch (error) {
    if (!(error instanceof TlsFilesError)) throw error
    return [{ path: `${at}.${error.file}`, message: error.message }]
  }
}
